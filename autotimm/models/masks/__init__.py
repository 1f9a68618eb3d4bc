"""What makes a detector one of masks: regions of its pyramid, the head on them, what it is trained on."""
