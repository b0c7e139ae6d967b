"""A public data set's files as they are distributed: a folder, or an archive that is read in place."""

from datasets.sources.folder import Folder
from datasets.sources.opening import open_source
from datasets.sources.source import Child, Offender, Source, TooLarge

__all__ = ["Child", "Folder", "Offender", "Source", "TooLarge", "open_source"]
