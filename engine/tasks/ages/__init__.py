"""What tasks of skeletal age share: labels, answer, learning, figures, calibration, regions, pseudo-labels.

``answer`` says what is predicted and how it is reported, ``inputs`` what goes in, ``learning`` how it is
learnt.
"""
