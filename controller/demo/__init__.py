"""`flotilla demo`: a broker, a controller and real agents on one machine, and the story of a broken release."""
