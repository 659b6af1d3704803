"""From files to batches: annotation formats, checks, preprocessing, augmentation and loading."""
