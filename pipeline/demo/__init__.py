"""The whole pipeline against the simulated provider, ending with a verdict.

``play`` starts the simulated provider and two simulated subscribers, of which one
fails until it is healed; runs the pipeline's roles in this process, or uses those
that run elsewhere; waits until everything has settled; replays the dead letters; and
compares what the provider was told was accepted with what came of it.
"""

from pipeline.demo.options import DemoOptions
from pipeline.demo.play import Demo
from pipeline.demo.summary import Summary

__all__ = ["Demo", "DemoOptions", "Summary"]
