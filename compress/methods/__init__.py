"""One file per paper. This table is the only registry: read it, or add a line."""

from compress.methods.crd import crd
from compress.methods.cyclegan import cyclegan
from compress.methods.data_free import data_free
from compress.methods.dcd import dcd
from compress.methods.dgl import guided
from compress.methods.gcc import gcc
from compress.methods.ghost import ghost
from compress.methods.l1 import l1
from compress.methods.mggc import mggc
from compress.methods.omgd import omgd
from compress.methods.pix2pix import pix2pix

METHODS = {
    "crd": crd,
    "cyclegan": cyclegan,
    "data_free": data_free,
    "dcd": dcd,
    "dgl": guided,
    "gcc": gcc,
    "ghost": ghost,
    "l1": l1,
    "mggc": mggc,
    "omgd": omgd,
    "pix2pix": pix2pix,
}
"""``pix2pix`` and ``cyclegan`` make teachers; with the others students follow."""
