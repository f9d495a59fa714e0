"""What turns the maps of a backbone into masks and boxes: decoders, and the dense models made with them."""
