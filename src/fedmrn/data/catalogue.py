"""The data sets that can be loaded by name: one row each.

Means and standard deviations are those of the published experiments of FedMRN, so that accuracies can be
compared: ImageNet's for CIFAR-10, and for Fashion-MNIST and SVHN other constants for the test images than for
the training images. SVHN's are far apart (0.1995 and 0.2244); that mismatch is in the published code and is
kept. MNIST and digits are not in those experiments and use the statistics of their training images for both.

MD5s are those that the authors or torchvision publish; `places` are the folders of torchvision and Keras.
"""

from collections.abc import Mapping
from types import MappingProxyType

from fedmrn.data.banking77 import CLASSES as INTENTS
from fedmrn.data.banking77 import LENGTH as TOKENS
from fedmrn.data.banking77 import find_banking77, read_banking77
from fedmrn.data.cifar import CifarReader
from fedmrn.data.digits import read_digits
from fedmrn.data.idx import read_idx
from fedmrn.data.shakespeare import CHARACTERS, FILE, LENGTH, find_shakespeare, read_shakespeare
from fedmrn.data.source import Extracted, FolderSource, RemoteFile, Source
from fedmrn.data.svhn import read_svhn
from fedmrn.data.voc import CLASSES, SIZE, find_voc, read_voc
from fedmrn.errors import ConfigError
from fedmrn.text import nearest

_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
# The authors' own page no longer serves the files; this copy is the one that the PyTorch project keeps.
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_TORONTO = "https://www.cs.toronto.edu/~kriz/"
_SVHN = "http://ufldl.stanford.edu/housenumbers/"

_CIFAR100_MEAN, _CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


_CIFAR10 = CifarReader(
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test=("test_batch",),
    label_key=b"labels",
)
_CIFAR100 = CifarReader(folder="cifar-100-python", train=("train",), test=("test",), label_key=b"fine_labels")


def _file(base: str, name: str, md5: str, size: int) -> RemoteFile:
    return RemoteFile(name, base + name, md5, size)


_ROWS = (
    Source(
        name="digits",
        description="handwritten digits, 8x8 grey; comes with scikit-learn",
        licence="CC BY 4.0",
        homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        files=(),
        shape=(1, 8, 8),
        train=1255,
        test=542,
        classes=10,
        mean_train=(0.3051,),
        std_train=(0.3761,),
        mean_test=(0.3051,),
        std_test=(0.3761,),
        augment=False,
        read=read_digits,
    ),
    Source(
        name="fashion-mnist",
        description="articles of clothing, 28x28 grey",
        licence="MIT",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        files=(
            _file(_FASHION, "train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880),
            _file(_FASHION, "train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", 29_515),
            _file(_FASHION, "t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", 4_422_102),
            _file(_FASHION, "t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", 5_148),
        ),
        shape=(1, 28, 28),
        train=60_000,
        test=10_000,
        classes=10,
        mean_train=(0.2860,),
        std_train=(0.3530,),
        mean_test=(0.2868,),
        std_test=(0.3524,),
        augment=False,
        read=read_idx,
        places=("FashionMNIST/raw",),
    ),
    Source(
        name="mnist",
        description="handwritten digits, 28x28 grey",
        licence="CC BY-SA 3.0",
        homepage="http://yann.lecun.com/exdb/mnist/",
        files=(
            _file(_MNIST, "train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
            _file(_MNIST, "train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", 28_881),
            _file(_MNIST, "t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", 1_648_877),
            _file(_MNIST, "t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", 4_542),
        ),
        shape=(1, 28, 28),
        train=60_000,
        test=10_000,
        classes=10,
        mean_train=(0.1307,),
        std_train=(0.3081,),
        mean_test=(0.1307,),
        std_test=(0.3081,),
        augment=False,
        read=read_idx,
        places=("MNIST/raw",),
    ),
    Source(
        name="cifar10",
        description="objects and animals in 10 classes, 32x32 colour",
        licence="none stated; cite Krizhevsky 2009",
        homepage=_TORONTO + "cifar.html",
        files=(_file(_TORONTO, "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", 170_498_071),),
        shape=(3, 32, 32),
        train=50_000,
        test=10_000,
        classes=10,
        mean_train=_IMAGENET_MEAN,
        std_train=_IMAGENET_STD,
        mean_test=_IMAGENET_MEAN,
        std_test=_IMAGENET_STD,
        augment=True,
        read=_CIFAR10,
        places=("CIFAR10", f"{_CIFAR10.folder}-target"),
        extracted=Extracted(
            _CIFAR10.folder,
            (
                ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
                ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
                ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
                ("data_batch_4", "634d18415352ddfa80567beed471001a"),
                ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
                ("test_batch", "40351d587109b95175f43aff81a1287e"),
            ),
            most=1 << 25,
            read=_CIFAR10.unpacked,
        ),
    ),
    Source(
        name="cifar100",
        description="objects and animals in 100 classes, 32x32 colour",
        licence="none stated; cite Krizhevsky 2009",
        homepage=_TORONTO + "cifar.html",
        files=(_file(_TORONTO, "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", 169_001_437),),
        shape=(3, 32, 32),
        train=50_000,
        test=10_000,
        classes=100,
        mean_train=_CIFAR100_MEAN,
        std_train=_CIFAR100_STD,
        mean_test=_CIFAR100_MEAN,
        std_test=_CIFAR100_STD,
        augment=True,
        read=_CIFAR100,
        places=("CIFAR100", f"{_CIFAR100.folder}-target"),
        extracted=Extracted(
            _CIFAR100.folder,
            (
                ("train", "16019d7e3df5f24257cddd939b257f8d"),
                ("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
            ),
            most=1 << 28,
            read=_CIFAR100.unpacked,
        ),
    ),
    Source(
        name="svhn",
        description="house numbers, cropped digits, 32x32 colour",
        licence="non-commercial use only",
        homepage=_SVHN,
        files=(
            _file(_SVHN, "train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", 182_040_794),
            _file(_SVHN, "test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", 64_275_384),
        ),
        shape=(3, 32, 32),
        train=73_257,
        test=26_032,
        classes=10,
        mean_train=(0.4496,),
        std_train=(0.1995,),
        mean_test=(0.4560,),
        std_test=(0.2244,),
        augment=False,
        read=read_svhn,
        places=("SVHN",),
    ),
    FolderSource(
        name="shakespeare",
        task="text",
        description=f"Shakespeare by speaking role: {LENGTH} characters, and which comes next",
        licence="public domain",
        homepage="https://github.com/TalwalkarLab/leaf",
        expects=f"LEAF's folders train/ and test/, or {FILE}",
        shape=(LENGTH,),
        classes=len(CHARACTERS),
        mean=(),
        std=(),
        find=find_shakespeare,
        read=read_shakespeare,
    ),
    FolderSource(
        name="banking77",
        task="sentences",
        description=f"questions to a bank as {TOKENS} tokens, and which of {INTENTS} intents each has",
        licence="CC BY 4.0",
        homepage="https://github.com/PolyAI-LDN/task-specific-datasets",
        expects="train.csv and test.csv",
        shape=(TOKENS,),
        classes=INTENTS,
        mean=(),
        std=(),
        find=find_banking77,
        read=read_banking77,
    ),
    FolderSource(
        name="voc",
        task="segmentation",
        description=f"Pascal VOC 2012, segmentation: objects in 20 classes and background, {SIZE}x{SIZE} colour",
        licence="of the images: Flickr's terms",
        homepage="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        expects="VOCdevkit/VOC2012, as in the archive,",
        shape=(3, SIZE, SIZE),
        classes=CLASSES,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        find=find_voc,
        read=read_voc,
    ),
)

DATASETS: Mapping[str, Source | FolderSource] = MappingProxyType({row.name: row for row in _ROWS})
"""Every data set that `load` knows, by name, in the order in which a person would want to see them."""


def find_source(name: str) -> Source | FolderSource:
    """Return the data set of this name, as the catalogue describes it.

    Raises:
        ConfigError: if no data set has this name.
    """
    if name not in DATASETS:
        raise ConfigError(
            f"data set {name!r} does not exist{nearest(name, DATASETS)} (one of your own is named by data.source)"
        )
    return DATASETS[name]
