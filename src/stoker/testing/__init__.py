"""For tests: of apps, without processes; and of Stoker's own parts, the fakes of its seams (`stoker.testing.seams`)."""

from __future__ import annotations

from stoker.testing.inline import inline

__all__ = ["inline"]
