"""Images to train on and to be measured on, whatever folders they lie in."""
