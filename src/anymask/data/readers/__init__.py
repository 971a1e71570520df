"""Photos with masks from the formats they come in; every reader yields `Photo`."""

from anymask.data.readers.bsds import read_bsds
from anymask.data.readers.coco import read_coco
from anymask.data.readers.davis import read_davis
from anymask.data.readers.folder import read_folder
from anymask.data.readers.indexed import IndexedPhotos, index_shards, set_sizes
from anymask.data.readers.layouts import LAYOUTS, layout_of, open_dataset
from anymask.data.readers.photo import KINDS, DataError, Photo, Problem, Problems
from anymask.data.readers.sa1b import find_shards, read_sa1b_folder, read_sa1b_tar, read_shards
from anymask.data.readers.voc import read_voc

__all__ = [
    "KINDS",
    "LAYOUTS",
    "DataError",
    "IndexedPhotos",
    "Photo",
    "Problem",
    "Problems",
    "find_shards",
    "index_shards",
    "layout_of",
    "open_dataset",
    "read_bsds",
    "read_coco",
    "read_davis",
    "read_folder",
    "read_sa1b_folder",
    "read_sa1b_tar",
    "read_shards",
    "read_voc",
    "set_sizes",
]
