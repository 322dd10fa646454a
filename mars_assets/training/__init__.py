"""What trainings share: recipe, device, loop, schedule, sampling, augmentation and folder."""
