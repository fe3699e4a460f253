/* Overflows the stack that the compiler keeps in linear memory. */
static int deeper(volatile char *above)
{
    volatile char frame[1024];
    frame[0] = above[0];
    return deeper(frame) + frame[0];
}

int main(void)
{
    volatile char first = 1;
    return deeper(&first);
}
