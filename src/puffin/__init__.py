"""PELICAN jet networks and masked autoencoders for LArTPC point clouds."""
