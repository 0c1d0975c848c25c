"""timm's models under timm's own names, ``timm/NAME``: a namespace, looked up in timm only when one is asked for."""

from __future__ import annotations

from collections.abc import Iterator

from zoo import Namespace, hookimpl

NOTES = "every model of timm: zoo list 'timm/*', zoo show timm/resnet50"


@hookimpl
def zoo_namespaces() -> Iterator[Namespace]:
    """Yield timm's namespace."""
    yield Namespace("timm/", list="zoo_timm.specs:names", resolve="zoo_timm.specs:spec", notes=NOTES)
