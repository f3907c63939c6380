"""What the commands read of an app, beyond the package's public names."""

from __future__ import annotations
