"""What stands below the mathematics and knows no diffusion: files, pictures, machines.

Nothing here imports from the package above.
"""
