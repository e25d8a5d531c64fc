"""One file per paper. This table is the only registry: read it, or add a line."""

from compress.methods.crd import crd
from compress.methods.cyclegan import cyclegan
from compress.methods.dcd import dcd
from compress.methods.l1 import l1
from compress.methods.omgd import omgd
from compress.methods.pix2pix import pix2pix

METHODS = {
    "crd": crd,
    "cyclegan": cyclegan,
    "dcd": dcd,
    "l1": l1,
    "omgd": omgd,
    "pix2pix": pix2pix,
}
"""``pix2pix`` and ``cyclegan`` make teachers; with the others students follow."""
