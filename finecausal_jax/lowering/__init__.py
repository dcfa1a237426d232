"""How convolutions, pools and normalisations are computed on each platform."""
