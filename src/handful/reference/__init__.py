"""Mini-batch gradient descent written out three times, to be read.

Of the package it imports the errors alone. Comparisons can run it in the trainer's
place: ``handful compare RECIPE --vary backend=trainer,numpy,torch,keras``. Read it in
this order:

1. `handful.reference.one_weight`: a line through the origin has one weight, so its loss
   is a parabola that can be drawn. What a gradient step is, and what a rate does.
2. `handful.reference.one_weight_torch`: the same steps; PyTorch finds the gradient.
3. `handful.reference.order`: which sample is in which batch, and how an order that is
   seeded in the wrong place repeats itself in each epoch.
4. `handful.reference.numpy_descent`: linear regression, softmax regression and a
   network with hidden layers, every gradient written by hand.
5. `handful.reference.torch_descent`: the same, with automatic differentiation.
6. `handful.reference.keras_descent`: the same in Keras on TensorFlow, fed by `tf.data`.

The last three have one function in common, ``descend``, with the same arguments. Given
the same order and the same initial weights (`handful.reference.weights`) they take the
same steps and return the same `handful.reference.trace.Trace`::

    weights = initial_weights(
        "softmax", num_features=13, num_classes=3, hidden=0, seed=0
    )
    order = make_order(num_samples=178, epochs=20, seed=0)
    trace = descend(
        "softmax", X, y, batch_size=32, epochs=20, lr=0.1, order=order, weights=weights
    )

In shapes, ``N`` is the number of samples, ``m`` that of one batch, ``n`` of features,
``H`` of hidden units, ``C`` of classes, ``S`` of steps and ``P`` of single weights.

The comments name their source as follows. *Bishop*: C. M. Bishop, Pattern Recognition
and Machine Learning, Springer 2006. *Goodfellow*: I. Goodfellow, Y. Bengio and
A. Courville, Deep Learning, MIT Press 2016. *LeCun*: Y. LeCun, L. Bottou, G. B. Orr
and K.-R. Mueller, Efficient BackProp, in Neural Networks: Tricks of the Trade, Springer
1998.
"""
