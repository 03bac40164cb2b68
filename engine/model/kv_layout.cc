#include "engine/model/kv_layout.h"
