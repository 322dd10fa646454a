"""What trainings share.

Recipe, device, loop, schedule, sampling, augmentation and folder.
"""
