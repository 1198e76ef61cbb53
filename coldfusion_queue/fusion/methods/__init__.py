"""How deltas are combined: one file for each method, chosen by the repository's policy.

====================  ============================================================================
``method``            what a method is, and what it may survey beforehand
``mean``              the weighted mean, ColD Fusion's
``nesterov``          the mean, with server momentum
``task_arithmetic``   the sum, times a scale
``dare``              the mean of what is left after numbers are dropped at random
``ordered``           what methods share that sort the deltas of each element
``sorting``           sorts or selects with a fixed network of minima and maxima
``median``            the weighted median of each element
``trimmed_mean``      the mean of each element without its smallest and largest deltas
``gram``              what methods share that need norms and distances of whole deltas
``clipped_mean``      the mean of deltas none of which is longer than the others are
``centered_clip``     the same, clipped around the mean itself
``geometric_median``  the point whose distances to all deltas sum to the least
``top``               the thresholds of each contribution's largest numbers
``ties``              of the largest numbers those that agree in sign
====================  ============================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from coldfusion_queue.errors import UsageError
from coldfusion_queue.fusion.methods.centered_clip import CenteredClip
from coldfusion_queue.fusion.methods.clipped_mean import ClippedMean
from coldfusion_queue.fusion.methods.dare import Dare
from coldfusion_queue.fusion.methods.geometric_median import GeometricMedian
from coldfusion_queue.fusion.methods.mean import Mean
from coldfusion_queue.fusion.methods.median import Median
from coldfusion_queue.fusion.methods.method import Method
from coldfusion_queue.fusion.methods.nesterov import Nesterov
from coldfusion_queue.fusion.methods.task_arithmetic import TaskArithmetic
from coldfusion_queue.fusion.methods.ties import Ties
from coldfusion_queue.fusion.methods.trimmed_mean import TrimmedMean

__all__ = ["METHODS", "Method", "make_method"]

#: Every method by the name that a policy calls it.
METHODS: Mapping[str, type[Method]] = MappingProxyType(
    {
        "mean": Mean,
        "median": Median,
        "trimmed_mean": TrimmedMean,
        "task_arithmetic": TaskArithmetic,
        "nesterov": Nesterov,
        "clipped_mean": ClippedMean,
        "centered_clip": CenteredClip,
        "geometric_median": GeometricMedian,
        "ties": Ties,
        "dare": Dare,
    }
)


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """A method by its name.

    Args:
        name: one of ``METHODS``.
        options: values of the method's fields; others are passed over, so that it may be the
            whole policy. A field that is missing has its default.

    Raises:
        UsageError: there is no such method.
    """
    method = METHODS.get(name)
    if method is None:
        raise UsageError("method", name, ", ".join(METHODS))
    names = [field.name for field in fields(method)]
    return method(**{each: options[each] for each in names if each in options})
