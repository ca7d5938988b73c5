"""From a judged path to an arm: the driver, arrival, and what arms listen to."""
