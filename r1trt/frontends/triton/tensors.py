"""A request's tensors, and the values in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from r1trt.serving.fields import REQUEST_FIELDS, Field
from r1trt.serving.request import RequestError

Array = npt.NDArray[Any]

# Parameters of a request that Triton itself or its front ends set.
_OWN_PARAMETERS = ("triton_", "sequence_", "priority", "timeout", "binary_data_output")
# What clients of other servers' models always send, empty where they do not use it.
_EMPTY = ("bad_words",)


def values_from_tensors(tensors: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the names of `REQUEST_FIELDS`; texts are decoded.

    Args:
        tensors: By name; those not given are absent.
        parameters: Named values that are not tensors: what a request sends under names that no input has.

    Raises:
        RequestError: Says which value is wrong, and what is expected.
    """
    _refuse_unknown(parameters)
    given = [field for field in REQUEST_FIELDS if field.name in tensors]
    return {field.name: _value(field, tensors[field.name]) for field in given}


def _refuse_unknown(parameters: Mapping[str, Any]) -> None:
    unknown = [
        name
        for name, value in parameters.items()
        if not name.startswith(_OWN_PARAMETERS) and name != "id" and not (name in _EMPTY and not value)
    ]
    if unknown:
        raise RequestError(
            "The request has parameters that the model does not know.",
            found=", ".join(sorted(unknown)),
            expected=", ".join(field.name for field in REQUEST_FIELDS),
        )


def _value(field: Field, array: Array) -> Any:
    elements = [_element(field, element) for element in array.reshape(-1).tolist()]
    if field.is_list:
        return elements
    if len(elements) != 1:
        raise RequestError(
            f"{field.name} has the wrong size.", found=f"shape {list(array.shape)}", expected="one element"
        )
    return elements[0]


def _element(field: Field, element: Any) -> Any:
    if field.dtype != "STRING":
        return element
    try:
        return element.decode("utf-8") if isinstance(element, bytes) else str(element)
    except UnicodeDecodeError as error:
        raise RequestError(f"{field.name} is not UTF-8.", found=error) from error
