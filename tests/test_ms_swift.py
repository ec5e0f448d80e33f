"""The plugin for ms-swift makes the batches that our own collator makes. Slow; needs ms-swift (run with 4.6.0)."""

import runpy
from pathlib import Path

import pytest
import torch
from training_runs import encoder_of, write_data, write_model

from hicom_hf.data.row_collating import HiComRowCollator

PLUGIN = Path(__file__).parents[1] / "examples" / "plugins" / "ms_swift.py"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_batch_of_ms_swift_is_that_of_our_own_collator(tmp_path, monkeypatch):
    swift = pytest.importorskip("swift.template", reason="needs ms-swift")
    from swift.model import get_model_processor

    monkeypatch.setenv("HICOM_NUM_FRAMES", "4")
    runpy.run_path(str(PLUGIN))
    write_data(tmp_path)
    folder = str(write_model(tmp_path / "model"))
    model, processor = get_model_processor(folder, model_type="hicom", torch_dtype=torch.float32)
    template = swift.get_template(processor, template_type="hicom")
    template.set_mode("train")
    rows = []
    for question, answer, name in (
        ("What colour is it?", "red.", "red.mp4"),
        ("Which letter?", "letter b", "green.mp4"),
    ):
        turns = (("system", "S"), ("user", f"<video>\n{question}"), ("assistant", answer))
        messages = [{"role": role, "content": content} for role, content in turns]
        rows.append({"messages": messages, "videos": [str(tmp_path / name)]})
    batch = template._data_collator([template.encode(row) for row in rows])
    expected = HiComRowCollator(encoder_of(processor, 4))(rows)
    assert all(torch.equal(batch[name], tensor) for name, tensor in expected.items())
    assert torch.equal(model(**batch).loss, model(**expected).loss)
    with pytest.raises(ValueError, match="each answer has its own instruction"):
        template.encode({**rows[0], "messages": [*rows[0]["messages"], *rows[1]["messages"][1:]]})
