"""Evaluation: benchmarks as small tasks, one runner that encodes each video once, strict scores with intervals.

    from hicom_hf.evaluation.evaluating import evaluate
    evaluate(["shapes"], "hicom-tiny", "results")

`client.py` is the one client of endpoints; `dataset_building` uses it as well, so nothing is imported here.
"""
