#include "engine/step_plan.h"
