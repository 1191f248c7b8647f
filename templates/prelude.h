// Rendered from templates/{{ template }} for {{ isa }}: edit the template, not this.
#include <stddef.h>
#include <stdint.h>
{% for prototype in prototypes %}
{{ prototype }}
{%- endfor %}
