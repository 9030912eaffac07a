"""Networks under test: weights, preprocessing, fitted classifiers, variants, Caffe layouts, the packaged networks."""

from eigencam.networks import torchvision_import

torchvision_import.install()
