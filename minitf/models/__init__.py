"""One file per architecture: trunk first, heads after a ruled line. All parameters of the library live here."""
