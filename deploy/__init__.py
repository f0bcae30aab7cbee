"""What is needed to put the parts to work: ``edge`` for gateways, ``demo`` for a first look."""
