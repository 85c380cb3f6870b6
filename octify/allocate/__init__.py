"""An alpha for every coupled set: the search above planning and calibration."""
