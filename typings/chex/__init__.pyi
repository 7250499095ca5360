"""What the type checker is told of chex, whose own Array is a union with NumPy's scalars that
cannot be indexed, and whose dataclass is not marked as one."""

from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

import jax

Array = jax.Array
PRNGKey = jax.Array
_Class = TypeVar("_Class")

@dataclass_transform()
def dataclass(*, frozen: bool = ...) -> Callable[[type[_Class]], type[_Class]]: ...
def __getattr__(name: str) -> Any: ...
