"""What stands below the mathematics and knows no diffusion.

Devices, processes, files, pictures, logs, networks on the disk, descents on any loss.
Nothing here imports from the package above.
"""
