"""Files of other tools before they are read: regular ones only, and as their writer left them."""
