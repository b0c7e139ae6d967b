"""The directory layouts of public data sets as their authors distribute them, one file each."""

from datasets.layouts.ccvid import CCVID
from datasets.layouts.celebreid import CELEBREID
from datasets.layouts.deepchange import DEEPCHANGE
from datasets.layouts.last import LAST
from datasets.layouts.layout import Entry, Layout
from datasets.layouts.ltcc import LTCC
from datasets.layouts.market1501 import MARKET1501
from datasets.layouts.msmt17 import MSMT17, MSMT17_V2
from datasets.layouts.prcc import PRCC
from datasets.layouts.reading import Reading
from datasets.layouts.table import TABLE
from datasets.layouts.vcclothes import VCCLOTHES
from datasets.sources import Offender

__all__ = ["LAYOUTS", "Entry", "Layout", "Offender", "Reading"]

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (PRCC, LTCC, VCCLOTHES, DEEPCHANGE, LAST, CELEBREID, CCVID, MARKET1501, MSMT17, MSMT17_V2, TABLE)
}
