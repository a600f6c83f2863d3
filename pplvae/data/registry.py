"""The data sets that `load_data` knows by name: their files, how they are read, and whose they are.

A new data set is a reader and an entry here. An address stands here only if it serves the very bytes of the checksum
over https; the other files are made from public ones (`CONVERSIONS`), and their checksum is that of the arrays in them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pplvae.data import originals, readers
from pplvae.data.download import File, Source, obtain
from pplvae.data.table import Table
from pplvae.errors import UnknownNameError


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set.

    Attributes:
        sources: files that hold it, in order of preference.
        about: what it is, its origin and its licence.
        labels: kinds of labels to choose from, the default one first.
        binarise: default of `load_data`; so are `missing` and `standardise`.
        scale: largest grey value; 1 where values are not grey.
    """

    sources: tuple[Source, ...] = ()
    about: str = ""
    labels: tuple[str, ...] = ()
    binarise: str = "none"
    missing: str = "refuse"
    standardise: bool = False
    scale: float = 1.0


@dataclass(frozen=True)
class Conversion:
    """How the archive of a data set is made: from which public files, in order, and by what."""

    files: tuple[str, ...]
    arrays: originals.Convert


def read_named(name: str, labels: str | None) -> Table:
    """Read a data set of `DATA_SETS`.

    Raises:
        DataError: a file is missing and cannot be downloaded, or has another checksum.
        UnknownNameError: a kind of label that the data set does not have.
    """
    known = DATA_SETS[name]
    if labels is not None and labels not in known.labels:
        raise UnknownNameError(f"kind of label of {name!r}", labels, known.labels or ["(it has no labels)"])
    source, paths = obtain(name, known.sources, known.about)
    return source.read(paths, labels)


_MNIST = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_FASHION = ("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",)
_AMAT = ("https://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",)


def _public(name: str, sha256: str, folders: Sequence[str]) -> File:
    return File(name, sha256, tuple(folder + name for folder in folders))


def _converted(name: str, sha256: str, read: Callable[[Sequence[Path], str | None], Table]) -> tuple[Source]:
    return (Source((File(name, sha256),), read),)


_MNIST_FILES = (
    _public("train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", _MNIST),
    _public("train-labels-idx1-ubyte.gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", _MNIST),
    _public("t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", _MNIST),
    _public("t10k-labels-idx1-ubyte.gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", _MNIST),
)
_FASHION_TRAIN = (
    _public("train-images-idx3-ubyte.gz", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", _FASHION),
    _public("train-labels-idx1-ubyte.gz", "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845", _FASHION),
)
_FASHION_TEST = (
    _public("t10k-images-idx3-ubyte.gz", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073", _FASHION),
    _public("t10k-labels-idx1-ubyte.gz", "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", _FASHION),
)
_FASHION_FIRST = File("train20k.npz", "268d5dbbfe4ef7c6995e6553bdf446130cf1784e2da5204e8629d8500d76bdae")
_AMAT_FILES = (
    _public("binarized_mnist_train.amat", "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d", _AMAT),
    _public("binarized_mnist_valid.amat", "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2", _AMAT),
    _public("binarized_mnist_test.amat", "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c", _AMAT),
)

DATA_SETS = {
    "digits": DataSet(
        (Source((), readers.digits),),
        "1797 handwritten digits of 8×8 (Alpaydin and Kaynak, 1998; UCI, CC BY 4.0), bundled with scikit-learn.",
        labels=("digit",),
        binarise="threshold",
    ),
    "mnist": DataSet(
        (Source(_MNIST_FILES, readers.idx),),
        "Handwritten digits, grey, 28×28 (LeCun, Bottou, Bengio and Haffner, 1998). CC BY-SA 3.0, as commonly stated.",
        labels=("digit",),
        scale=255,
    ),
    "mnist_static_binarized": DataSet(
        (
            *_converted(
                "mnist_static_binarized.npz",
                "a2ef47dae293839437b371ca1d58f92dd82c46241123017fb437a5066d7246ae",
                readers.packed_bits,
            ),
            Source(_AMAT_FILES, readers.amat),
        ),
        "MNIST binarised once and for all (Salakhutdinov and Murray, 2008; Larochelle and Murray, 2011), the set of "
        "published log-likelihoods. No licence stated; derived from MNIST.",
    ),
    "fashion_mnist": DataSet(
        (
            Source((_FASHION_FIRST, *_FASHION_TEST), readers.fashion_first),
            Source((*_FASHION_TRAIN, *_FASHION_TEST), readers.fashion_originals),
        ),
        "Clothing, grey, 28×28 (Xiao, Rasul and Vollgraf, 2017; Zalando SE, MIT). The first 20000 of the 60000 "
        "training rows, so results on them are not comparable with published ones.",
        labels=("class",),
        scale=255,
    ),
    "omniglot": DataSet(
        _converted(
            "omniglot_28x28.npz", "bc116106562237657dc83564aac76b92f21bb67142376f7720d9a248fc9f7ec2", readers.omniglot
        ),
        "Handwritten characters of 50 alphabets (Lake, Salakhutdinov and Tenenbaum, 2015; MIT), shrunk to 28×28, grey, "
        "with a random split: not the `chardata.mat` of the IWAE papers. From github.com/bitsandscraps/omniglot.",
        labels=("character", "drawer"),
        scale=255,
    ),
    "frey_faces": DataSet(
        _converted(
            "frey_faces.npz", "6de4e411054021e8929112166646b7b5557b081079fe30edb0ebde80bbd2118a", readers.frey_faces
        ),
        "1965 video frames of a face, grey, 28×20 (B. Frey and S. Roweis). No licence stated. From "
        "github.com/jmtomczak/vae_vampprior, datasets/Freyfaces/freyfaces.pkl. The frames follow one another, so the "
        "random split puts near-copies of training rows among the held-out ones: held-out figures are optimistic.",
        scale=255,
    ),
    "caltech101_silhouettes": DataSet(
        _converted(
            "caltech101_silhouettes_28x28.npz",
            "b5292d289e4209b5330900afa1544769362afae9e0bc30372eaa57cd71416627",
            readers.silhouettes,
        ),
        "Binary outlines of objects, 28×28 (Marlin, Swersky, Chen and de Freitas, 2010), derived from Caltech-101 "
        "(CC BY 4.0), with a random split of the sizes of Marlin's, not his rows. From "
        "github.com/AshaNarayana/MLP_Assignment, datasets/caltech101_silhouettes_28.mat.",
        labels=("class",),
    ),
    "pbmc_facs": DataSet(
        _converted(
            "pbmc_facs.npz", "5628a955a836c60ba4819631a54937d0a3bbab7e47b51a83d77c385daff0afeb", readers.pbmc_facs
        ),
        "UMI counts of sorted blood cells (Zheng et al., 2017; 10x Genomics, CC BY 4.0): the 2000 most variable genes "
        "of 16791. From github.com/stephenslab/fastTopics, data/pbmc_facs.RData.",
        labels=("subpop", "cell_type"),
    ),
    "cortex_zeisel": DataSet(
        _converted(
            "cortex_zeisel_1464x1000.npz",
            "ce0df22b5c4428a3a84fc76ea084ab4cfc157ed822dfc3090e5aa544e90ed506",
            readers.cortex_zeisel,
        ),
        "UMI counts of mouse brain cells (Zeisel et al., 2015; GEO GSE60361, no licence stated): three cell types, "
        "1000 genes. From github.com/jingshuw/descend, data/zeisel.rda.",
        labels=("cell_type",),
    ),
    "newsgroups20_bow": DataSet(
        _converted(
            "newsgroups20_bow.npz",
            "b1cab6751514b674ce0e63a57942acaa6182d3f57d1e207bd77f6df0631206aa",
            readers.newsgroups,
        ),
        "Word counts of the 20 Newsgroups (Lang, 1995; no licence stated), lemmatised, 1995 words. From "
        "github.com/sophieburkhardt/dirichlet-vae-topic-models, data/20news.",
    ),
    "jsb_chorales": DataSet(
        _converted(
            "jsb_chorales.npz", "aa91179a33df2d4df120bb66b9dd3b35e00617b48397be88f445932a84648bdf", readers.chorales
        ),
        "Bach's four-part chorales as piano rolls (Boulanger-Lewandowski, Bengio and Vincent, 2012; the music is out "
        "of copyright). From github.com/pyro-ppl/datasets, polyphonic/jsb_chorales.pickle.",
    ),
    "air_quality_uci": DataSet(
        _converted(
            "air_quality_uci.npz",
            "fbe8a4dc75adf405a60d8ef6be6ddd6299a8cee05690c878eaf9ec94f449d115",
            readers.air_quality,
        ),
        "Hourly air-quality sensors, 13 columns, 13.7 % of the values missing (De Vito et al., 2008; UCI, doi "
        "10.24432/C59K5F, CC BY 4.0 by its policy). From github.com/rim-esh/Air_Quality_VITO_2008, AirQualityUCI.csv. "
        "The hours follow one another, so the random split puts near-copies of training rows among the held-out ones: "
        "held-out figures are optimistic.",
        missing="mask",
        standardise=True,
    ),
    "penguins": DataSet(
        _converted(
            "penguins.npz", "e31e66bcc15ad1d85d16ff95cee5aac22895088c33727311d25df3aad80679c4", readers.penguins
        ),
        "Body measurements of three species of penguins (Horst, Hill and Gorman, 2020; CC0), two rows missing. From "
        "github.com/allisonhorst/palmerpenguins, inst/extdata/penguins.csv.",
        labels=("species", "island", "sex", "year"),
        missing="mask",
        standardise=True,
    ),
}

CONVERSIONS = {
    "mnist_static_binarized": Conversion(tuple(file.name for file in _AMAT_FILES), originals.mnist_static),
    "fashion_mnist": Conversion(tuple(file.name for file in _FASHION_TRAIN), originals.fashion_first),
    "omniglot": Conversion(("images_background.npz", "images_evaluation.npz"), originals.omniglot),
    "frey_faces": Conversion(("freyfaces.pkl",), originals.frey_faces),
    "caltech101_silhouettes": Conversion(("caltech101_silhouettes_28.mat",), originals.silhouettes),
    "pbmc_facs": Conversion(("pbmc_facs.RData",), originals.pbmc_facs),
    "cortex_zeisel": Conversion(("zeisel.rda",), originals.cortex_zeisel),
    "newsgroups20_bow": Conversion(("train.feat", "test.feat", "vocab.new"), originals.newsgroups),
    "jsb_chorales": Conversion(("jsb_chorales.pickle",), originals.chorales),
    "air_quality_uci": Conversion(("AirQualityUCI.csv",), originals.air_quality),
    "penguins": Conversion(("penguins.csv",), originals.penguins),
}
