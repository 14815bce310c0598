"""Pytest plugin: Hypothesis stops at the first failing example, without shrinking it.

Shrinking a property over a whole ledger takes minutes; a trial only needs to know whether it fails.
"""

from hypothesis import Phase, settings

settings.register_profile(
    "without shrinking", phases=(Phase.explicit, Phase.generate), database=None
)
settings.load_profile("without shrinking")
