"""Networks under test: weights, preprocessing, fitted classifiers, variants, Caffe layouts, the embedded networks."""
