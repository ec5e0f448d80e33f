"""Model and processor together: one folder, one commit on the Hub."""

from .saving import push_to_hub, save_hub_folder

__all__ = ["push_to_hub", "save_hub_folder"]
