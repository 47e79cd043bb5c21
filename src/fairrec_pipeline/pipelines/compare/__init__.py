"""Tables, tests, figures and a report over every trained arm of a dataset; Table 1 of the paper."""
