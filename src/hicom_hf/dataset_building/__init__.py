"""Builds instruction-conditioned training data from untrimmed videos, as HICom-248K was built (paper, section 3.2).

`hicom build-data` is its command; docs/building_data.md tells how to use it. One file per stage; between the stages go paths
and times, never frames. `stages.py` says where results lie, `settings.py` what decides them.
"""
