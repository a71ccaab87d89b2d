"""Pictures for people: arrays in, picture out. Nothing here knows of slides or stores."""
