"""What networks compute between their large products, in passes of compiled code, and how a network is made to use them."""
