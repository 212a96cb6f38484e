"""The kinds of training: classification, regression, masked modelling, segmentation."""
