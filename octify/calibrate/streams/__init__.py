"""Values of a model, image by image, in bounded memory."""
