#include "ball_kernel.h"
#include "knn_kernel.h"
