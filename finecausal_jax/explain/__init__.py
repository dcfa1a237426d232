"""Why a score is what it is: interventions on the network and on pixels, and pictures of both."""
