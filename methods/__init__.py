"""Methods of re-identification: one paper, one file, one class. METHODS is the table of them."""

from methods.baseline import Baseline
from methods.cal import CAL
from methods.ccaf import CCAF
from methods.ifd import IFD
from methods.method import Method
from methods.pixel_sampling import PixelSampling

METHODS: dict[str, type[Method]] = {
    "baseline": Baseline,
    "cal": CAL,
    "ifd": IFD,
    "pixel-sampling": PixelSampling,
    "ccaf": CCAF,
}
