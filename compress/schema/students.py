"""``[method]``: what a student may minimise, one model for each paper."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compress.schema.data_free import DataFreeMethod
from compress.schema.dgl import DglMethod
from compress.schema.gcc import GccMethod
from compress.schema.methods import CrdMethod, DcdMethod, L1Method, OmgdMethod
from compress.schema.mggc import MggcMethod

StudentMethod = Annotated[
    L1Method
    | OmgdMethod
    | DcdMethod
    | CrdMethod
    | GccMethod
    | DglMethod
    | MggcMethod
    | DataFreeMethod,
    Field(discriminator="name"),
]
