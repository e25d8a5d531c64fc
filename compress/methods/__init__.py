"""One file per paper. This table is the only registry: read it, or add a line."""

from compress.methods.dcd import dcd
from compress.methods.l1 import l1
from compress.methods.pix2pix import pix2pix

METHODS = {"dcd": dcd, "l1": l1, "pix2pix": pix2pix}
