"""What the pages' handlers are given: desk, visitor and templates by name, and texts from the query."""

from typing import Annotated

from jinja2 import Environment
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from controller.web.desk import Desk
from controller.web.visitor import Visitor

TheDesk = NamedDependency[Desk]
TheEnvironment = NamedDependency[Environment]
TheVisitor = NamedDependency[Visitor]

Text = Annotated[str, QueryParameter(max_length=300)]
