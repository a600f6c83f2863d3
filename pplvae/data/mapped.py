"""Rows that lie in a file and not in memory: looked at through the file, some at a time, and never copied whole."""

import numpy as np


def writable(array: np.ndarray) -> np.ndarray:
    """A memory map that may be written into, with no copy: what is written stays in this process, out of the file.

    A program may write into its rows, and one that did so in a map that is only to be read would end the process.

    Args:
        array: any; all but memory maps that are only to be read are returned as they are.
    """
    whole = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    if array.flags.writeable or not array.flags.c_contiguous or not isinstance(whole, np.memmap):
        return array
    if whole.filename is None:  # of a file without a name, which cannot be opened once more
        return array
    address = [each.__array_interface__["data"][0] for each in (whole, array)]
    offset = whole.offset + address[1] - address[0]  # of some rows: those before them
    return np.memmap(whole.filename, array.dtype, "c", offset, array.shape)
