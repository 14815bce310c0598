"""A pytest plugin: Hypothesis stops at the first example that fails, and does not make it smaller.

A property over a whole ledger takes minutes to shrink; a trial asks only whether a fault is seen.
"""

from hypothesis import Phase, settings

settings.register_profile(
    "without shrinking", phases=(Phase.explicit, Phase.generate), database=None
)
settings.load_profile("without shrinking")
