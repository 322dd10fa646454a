"""What every training shares: the device, the schedule, sampling, augmentation and the folder it writes."""
